"""The one place that keeps a service's exception from its caller: a reply always comes, and says what was wrong.

rclpy's own services are among them: its change_state raises for a transition that is not allowed (ros2/rclpy#1209),
its set_parameters for a type that it does not know.
"""

from __future__ import annotations

import logging
from typing import Any

from rcl_interfaces.msg import SetParametersResult

from segzero_ros.core.text import clean, first_line

log = logging.getLogger(__name__)


def guard_services(node: Any) -> None:
    """Wraps the callback of each service that the node has now."""
    for service in node.services:
        service.callback = _guarded(node, service)


def _guarded(node: Any, service: Any) -> Any:
    callback, name = service.callback, service.srv_name if hasattr(service, "srv_name") else "a service"

    def call(request: Any, response: Any) -> Any:
        try:
            return callback(request, response)
        except Exception as error:
            log.debug("%s failed", name, exc_info=True)
            sentence = clean(f"{name} refused a request: {first_line(error)}")
            node.get_logger().error(sentence)
            return _refusal(request, response, sentence)

    return call


def _refusal(request: Any, response: Any, sentence: str) -> Any:
    failed = SetParametersResult(successful=False, reason=sentence)
    if hasattr(response, "results") and hasattr(request, "parameters"):  # SetParameters: one for each
        response.results = [*response.results, *[failed] * (len(request.parameters) - len(response.results))]
    elif hasattr(response, "success"):  # ChangeState, std_srvs, ours
        response.success = False
        if hasattr(response, "message"):
            response.message = sentence
    elif hasattr(response, "result") and isinstance(response.result, SetParametersResult):
        response.result = failed
    elif hasattr(response, "result") and hasattr(response.result, "STATUS_BACKEND_ERROR"):
        response.result.status, response.result.message = response.result.STATUS_BACKEND_ERROR, sentence
    else:
        return type(response)()  # half an answer would be taken for a whole one
    return response
