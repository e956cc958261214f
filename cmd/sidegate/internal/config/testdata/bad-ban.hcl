route "r" {
  respond { body = "ok" }
  ban {
    after    = 0
    window   = "1ms"
    statuses = [401, "x"]
  }
}
route "s" {
  hosts = ["s.test"]
  respond { body = "ok" }
  ban {
    statuses = [200, 404, 700]
    for      = "2h"
    longest  = "1h"
  }
}
route "t" {
  hosts = ["t.test"]
  respond { body = "ok" }
  ban { statuses = [] }
}
