"""Modules of bumps: BumpNet and BumpDeepONet, rows that come and go, compiled training steps."""
