policy "p" {
  cors {
    origins     = ["*"]
    credentials = true
  }
}
route "r" {
  respond { body = "ok" }
  cors {
    origins = ["app.example.com", "https://app.example.com/", "https://App.example.com", "https://a.*.com"]
    methods = ["get", "TRACE"]
    headers = ["a b"]
  }
}
route "s" {
  hosts = ["s.test"]
  respond { body = "ok" }
  cors {}
}
route "t" {
  hosts = ["t.test"]
  respond { body = "ok" }
  cors {
    origins = []
    methods = []
    expose  = ["x:"]
  }
}
route "u" {
  hosts = ["u.test"]
  respond { body = "ok" }
  cors {
    origins = ["*"]
    max_age = "48h"
  }
}
