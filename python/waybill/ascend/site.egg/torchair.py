"""Found by `import torchair`; install() puts the real module into sys.modules."""

from waybill.ascend import install

install()
