service "s" {
  instances = ["127.0.0.1:1"]
  limits { adaptive = "yes" }
}
plan "gold" { priority = "urgent" }
consumer "acme" { priority = 1 }
route "r" {
  service  = "s"
  priority = "hgih"
}
memory_limit = "10MiB"
