"""BumpNet inside other libraries; each module needs its library only when its net is used (docs/integrations.md)."""
