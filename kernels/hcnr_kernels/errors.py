"""Errors of the operator library; `HcnrError` is the root that the whole project raises."""


class HcnrError(Exception):
    """Root of every error the project raises on purpose: one sentence a user can act on."""


class OperatorError(HcnrError, ValueError):
    """An argument of an operator has the wrong shape, dtype, device or value."""


class FactorizationError(HcnrError, ArithmeticError):
    """A curvature matrix could not be factorised, even at the top of the damping ladder."""
