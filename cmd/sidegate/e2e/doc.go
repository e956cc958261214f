// Package e2e holds tests of the built binary against real servers: a Consul
// agent, nginx, Pebble, Chromium. There is nothing to import. With -short the
// tests are skipped; without the tools they fail and say so.
package e2e
