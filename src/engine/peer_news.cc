#include "engine/peer_news.h"

#include "base/errors.h"
#include "engine/whereabouts.h"
#include "transport/other_hosts.h"
#include "window/texts.h"

namespace waybill::engine {

std::string news_of(Session& session, const std::vector<int>& ranks) {
  transport::OtherHosts* const others = session.other_hosts();
  const std::string news = others == nullptr ? std::string() : others->news_of(ranks);
  return news.empty() ? news : "; " + news;
}

std::string whereabouts_of(Session& session, const std::vector<int>& ranks) {
  std::vector<const window::ControlPage*> pages;
  pages.reserve(ranks.size());
  for (const int rank : ranks) {
    pages.push_back(session.peer(rank).control);
  }
  return describe_whereabouts(ranks, pages);
}

std::string ends_of(Session& session, const std::vector<int>& ranks) {
  std::vector<int> ended;
  std::vector<int> released;
  for (const int rank : ranks) {
    (session.transport().has_ended(rank) ? ended : released).push_back(rank);
  }
  const auto tell = [](const std::vector<int>& who, const char* one, const char* many) {
    return who.empty() ? std::string() : name_ranks(who) + (who.size() == 1 ? one : many);
  };
  const std::string first = tell(ended, " has ended its process", " have ended their processes");
  const std::string second = tell(released, " has released the group", " have released the group");
  return first + (first.empty() || second.empty() ? "" : ", ") + second;
}

std::string departures(Session& session, const std::vector<int>& ranks) {
  std::string text;
  for (const int rank : ranks) {
    text += (text.empty() ? "" : "; ") + name_ranks({rank}) +
            " left the group: " + window::read_text(session.peer(rank).control->departure.text);
  }
  return text;
}

}  // namespace waybill::engine
