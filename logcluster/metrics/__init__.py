"""What a node measures of itself, in Prometheus' words: names, sources, exposition, dashboards.

Components keep plain integers, and tell observers that are None by default what took how long; nothing below this
package knows Prometheus. What can be read is read at a scrape (`…_sources`), what must be measured as it happens is
measured by objects that are bound once per method (`requests`, `histogram`). `catalogue` names every metric;
docs/metrics.md shows the same table.
"""
