route "r" {
  respond { body = "ok" }
  limits {}
}
route "s" {
  hosts = ["s.test"]
  respond { body = "ok" }
  limits {
    body            = 10
    headers         = "1B"
    uri             = "0B"
    requests        = 0
    requests_per_ip = "many"
    request         = 5
  }
}
