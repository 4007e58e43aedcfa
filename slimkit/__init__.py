"""slimkit: make convolutional networks narrower for real, with proof and measurements.

`__init__.pyi` lists the names; each is imported when it is first used, so that `import slimkit` costs nothing.
"""

import lazy_loader

from slimkit._version import __version__ as __version__

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
