"""Tests that use the plugin's fixture are left out where the plugin is switched off."""

from __future__ import annotations

from pathlib import Path


def pytest_ignore_collect(collection_path, config):
    if config.rootpath != Path(__file__).parent:
        return True  # this project has its own run, and is no part of the tests around it
    if collection_path.name == "test_fixture.py" and not config.pluginmanager.hasplugin("gradverify"):
        return True
    return None
