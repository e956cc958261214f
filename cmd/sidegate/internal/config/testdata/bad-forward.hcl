route "r" {
  respond { body = "ok" }
  auth "forward" {
    url     = "127.0.0.1:4180"
    headers = ["Cookie", "Connection"]
    copy    = ["X_User", "Cookie"]
    cache   = "2h"
    key     = ["path", "header"]
    timeout = "0s"
    ca_file = "nowhere.pem"
    body    = true
  }
  auth "forward" {}
}
route "s" {
  respond { body = "ok" }
  auth "forward" {
    url      = "http://auth.test/check"
    headers  = ["Cookie", "Connection"]
    copy     = ["X_User", "Cookie"]
    consumer = "X-Forwarded-User"
  }
}
