route "a" {
  hosts   = ["a.test"]
  service = "s"
  charge {
    units = "1.5"
  }
}
route "b" {
  hosts   = ["b.test"]
  service = "s"
  charge {
    meter    = "two words"
    units    = "1.1234567"
    estimate = "response.status"
    service  = "billign"
    url      = "https://billing.test"
    path     = "charges/"
    mode     = "event"
  }
}
route "c" {
  hosts   = ["c.test"]
  service = "s"
  charge {
    meter     = "m"
    units     = "int(response.headers['x-tokens'])"
    service   = "billign"
    when_down = "owe"
  }
}
route "d" {
  hosts   = ["d.test"]
  service = "s"
  charge {
    meter    = "m"
    units    = "request.path"
    estimate = "-1"
    url      = "ftp://billing.test/x"
    when     = "response.status"
    credit   = "5"
    mode     = "lease"
    lease    = "0"
  }
}
route "e" {
  hosts   = ["e.test"]
  service = "s"
  charge {
    meter   = "m"
    service = "billign"
    mode    = "lease"
  }
}
route "f" {
  hosts   = ["f.test"]
  service = "s"
  charge {
    meter = "m"
    mode  = "before"
  }
}
charges { spool = "1KiB" }
service "s" { instances = ["127.0.0.1:1"] }
service "billing" { instances = ["127.0.0.1:2"] }
