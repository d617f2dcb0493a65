"""gs_semantic: a live 3D Gaussian map in which every Gaussian knows its object.

The generated ROS interfaces (``gs_semantic.msg``, ``gs_semantic.srv``) may be installed in another folder
than these modules (a source tree in front of an environment), so the package path is extended over all of them.
"""

from pkgutil import extend_path

__path__ = extend_path(__path__, __name__)

__version__ = "0.1.0"
