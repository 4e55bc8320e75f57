"""Found by `import torch_npu`; install() puts the real module into sys.modules."""

from waybill.ascend import install

install()
