"""BumpNet in other libraries.  A module imports its library only when its net is used (docs/integrations.md)."""
