"""A file that a model refuses becomes a note, so that no session is locked by it."""

import base64
import json
from typing import Any

import pytest

from rejoin_runner.models.model import ModelError, ModelRequest, collect_answer
from rejoin_runner.models.providers.provider import ProviderConnections
from rejoin_runner.models.providers.provider_call import ProviderModel
