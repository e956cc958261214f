route "r" {
  respond { body = "ok" }
  rate_limit {
    rate   = "5/s"
    shared = true
  }
  quota {
    limit  = "5/day"
    shared = true
  }
}
