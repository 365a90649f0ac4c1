"""Fakes of chat platforms, for tests of channels: servers on the loopback interface that follow the
platforms' rules and limits. Import them from `palaver.testing.fakes.slack` and
`palaver.testing.fakes.discord`."""
