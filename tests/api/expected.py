"""Refusals that no JSON Schema can describe, because they depend on two fields or on the state of the sale. Schemathesis
would call them wrong; every other failure counts."""

import schemathesis
from schemathesis.core.failures import AcceptedNegativeData
from schemathesis.openapi.checks import RejectedPositiveData


def answer(response):
    try:
        body = response.json()
    except ValueError:
        return None, ""
    return body.get("code"), body.get("detail", "")


@schemathesis.hook
def filter_failure(context, failure, case, response):
    code, detail = answer(response)
    if isinstance(failure, RejectedPositiveData):
        # `If-Match` names another version; a coupon with several units for a user needs a key; two fields that disagree.
        by_state = code in ("precondition-failed", "idempotency-key-required")
        by_two_fields = code == "bad-request" and detail in (
            "starts_at must be before ends_at",
            "send `after` or `newest`, not both",
            "send `fix` or `rebuild`, not both: a rebuild repairs everything",
        )
        return not (by_state or by_two_fields)
    if isinstance(failure, AcceptedNegativeData):
        # Refused, for the version that `If-Match` names.
        return code != "precondition-failed"
    return True
