redis {
  address  = "redis"
  username = "sidegate"
  tls {
    cert_file = "bad-block.txt"
  }
}
route "r" {
  respond { body = "ok" }
  rate_limit {
    rate   = "5000000/s"
    shared = true
    share  = 2
  }
}
