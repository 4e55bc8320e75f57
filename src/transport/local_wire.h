#pragma once

#include <chrono>
#include <memory>
#include <vector>

#include "transport/wire.h"

namespace waybill::transport {

/// What lies between the wires of ranks that are threads of one process, so that tests can make it
/// bad. Directions are (from, to). Safe from any thread, also while the wires are used and after.
class LocalLinks {
 public:
  explicit LocalLinks(int world_size);
  LocalLinks(const LocalLinks&) = delete;
  LocalLinks& operator=(const LocalLinks&) = delete;
  ~LocalLinks();

  /// Nothing leaves the sender: bodies stay borrowed, as behind a network that is full.
  void hold(int from, int to, bool held = true);
  /// What is sent from now on comes this much later.
  void delay(int from, int to, std::chrono::milliseconds late);
  /// What is sent from now on is lost and nobody is told, also not of the sender's end; it is
  /// counted down as if it had gone.
  void swallow(int from, int to, bool swallowed = true);
  /// What was sent and has not come yet is lost and nobody is told.
  void drop_in_flight(int from, int to);
  /// Ends the connection: on_lost() at both ends, after what has left the sender has come.
  void cut(int one, int other);

 private:
  friend class LocalWire;
  friend std::vector<std::unique_ptr<Wire>> make_local_wires(const LocalLinks& links);
  struct State;
  std::shared_ptr<State> state_;
};

/// Wires between threads of this process, one for each rank of the links. A wire that is destroyed
/// is lost to all others. Bodies with in_flight are copied by a later progress() of the sender.
std::vector<std::unique_ptr<Wire>> make_local_wires(const LocalLinks& links);
/// The same with links that are always good.
std::vector<std::unique_ptr<Wire>> make_local_wires(int world_size);

}  // namespace waybill::transport
