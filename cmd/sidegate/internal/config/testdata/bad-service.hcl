service "a" {
  instances = ["127.0.0.1", "http://10.0.0.1:80", ":80", "10.0.0.1:1", "10.0.0.1:1"]
}
service "b" {
  instances = ["127.0.0.1:1"]
  consul {}
}
service "c" {
  instances = ["127.0.0.1:1"]
  balance   = "hash"
}
service "d" {
  instances = ["127.0.0.1:1"]
  balance   = "hash"
  hash_by   = "heder:X"
}
service "e" {
  instances = ["127.0.0.1:1"]
  balance   = "hash"
  hash_by   = "consumer"
}
service "f" {
  instances = ["127.0.0.1:1"]
  hash_by   = "client_ip"
}
service "g" {
  instances = ["127.0.0.1:1"]
  balance   = "round-robin"
  protocol  = "http2"
}
service "h" {
  instances = ["127.0.0.1:1"]
  health_check {
    path = "healthz"
    host = "a/b"
  }
  sticky { cookie = "a b" }
  tls { insecure = true }
  retry { on = ["conect", "418"] }
}
service "i" {
  instances = ["127.0.0.1:1"]
  health_check {
    type    = "tcp"
    path    = "/x"
    service = "y"
  }
  sticky {}
}
service "j" {
  instances = ["127.0.0.1:1"]
  health_check {
    type    = "tcp"
    path    = "/x"
    service = "y"
  }
  sticky { cookie = "a b" }
  tls { insecure = true }
}
