tls {
  certificate {
    cert_file = "no-such.pem"
    key_file  = "."
  }
  acme {
    ca_file    = "missing.pem"
    directory  = "http://ca.example.com"
    challenges = ["dns-01"]
    email      = "nobody"
    dns {}
  }
  on_demand { ask = "127.0.0.1:80" }
  storage = "consul"
}
admin {
  address = "0.0.0.0:9901"
  token   = file("no-such-token")
}
service "s" {
  instances = ["127.0.0.1:1"]
  protocol  = "https"
  tls {
    cert_file = "bad-file.hcl"
  }
}
