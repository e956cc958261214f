route "none" {
  hosts = ["none.example.com"]
}
route "two" {
  hosts   = ["two.example.com"]
  service = "a"
  respond {}
}
route "no-share" {
  hosts = ["c.example.com"]
  split = { "a" = 0 }
}
route "empty" {
  hosts = ["d.example.com"]
  split = {}
}
route "mirrored" {
  hosts        = ["e.example.com"]
  strip_prefix = "/x"
  respond {
    status = 204
    body   = "x"
    headers = {
      "Content-Length" = "1"
      "A B"            = "x"
      "X"              = "a\nb"
    }
  }
  mirror { service = "a" }
}
service "a" { instances = ["127.0.0.1:1"] }
