counters {
  memory        = "1KiB"
  quota_clients = 1
}
plan "p" { quota = "10/week" }
policy "p" {
  rate_limit {
    rate   = "100/s"
    shared = true
  }
}
route "r" {
  paths = ["/orders/{id}"]
  respond { body = "ok" }
  rate_limit {}
  rate_limit { rate = "100" }
  rate_limit {
    rate  = "0/s"
    burst = 0
    by    = "client_ip"
  }
  rate_limit {
    rate = "5/month"
    by   = "heder:X-A"
  }
  rate_limit {
    rate    = "5/s"
    by      = "param:id"
    dry_run = "yes"
  }
}
route "params" {
  paths = ["/carts/{id}"]
  respond { body = "ok" }
  rate_limit {
    rate = "5/s"
    by   = "param:order"
  }
}
route "expressions" {
  respond { body = "ok" }
  rate_limit {
    rate       = "5/s"
    by         = "cel:claims.sub +"
    cost       = "request.methd == 'GET' ? 1 : 2"
    rate_claim = "rate"
  }
  rate_limit {
    rate     = "5/s"
    by       = "claim:a b"
    cost     = "request.method"
    rate_max = "5/s"
  }
}
route "quotas" {
  respond { body = "ok" }
  quota {}
  quota {
    limit = "10/s"
    by    = "somebody"
    name  = "a b"
    cost  = "claims."
  }
}
route "shared" {
  respond { body = "ok" }
  rate_limit {
    rate   = "5000000/s"
    shared = true
    share  = 2
  }
  quota {
    limit     = "5/day"
    shared    = true
    when_down = "panic"
  }
  quota {
    limit = "5/day"
    chunk = 0
  }
}
