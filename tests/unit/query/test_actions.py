"""docs/identity.md names every action of IAM and STS, and botocore knows each of them."""

from __future__ import annotations

import re
from pathlib import Path

import boto3
import pytest

from titans3.query.door import ACTIONS

PAGE = (Path(__file__).parents[3] / "docs" / "identity.md").read_text()


@pytest.mark.parametrize("service", sorted(ACTIONS))
def test_actions_are_aws_own_and_documented(service: str) -> None:
    client = boto3.client(service, region_name="us-east-1", aws_access_key_id="AK", aws_secret_access_key="S")
    assert ACTIONS[service].keys() <= set(client.meta.method_to_api_mapping.values())
    listed = PAGE.partition(f"`{service}`: ")[2].partition(".")[0]
    assert re.findall(r"\w+", listed) == sorted(ACTIONS[service])
