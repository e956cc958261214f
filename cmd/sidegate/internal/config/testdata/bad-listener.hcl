listener "h3-plain" {
  address   = "127.0.0.1:8001"
  tls       = false
  protocols = ["h1", "h3"]
}
listener "no-port" { address = "127.0.0.1" }
listener "bad-port" { address = ":99999" }
listener "a" { address = "127.0.0.1:8002" }
listener "b" { address = ":8002" }
listener "c" {
  address   = ":8003"
  protocols = []
}
listener "d" {
  address        = ":8004"
  redirect_https = true
}
listener "e" {
  address        = ":8005"
  proxy_protocol = true
  protocols      = ["h1", "h3", "h1"]
}
listener "f" {
  address        = ":8006"
  tls            = false
  client_ca_file = "no-such.pem"
}
admin { address = "127.0.0.1:8006" }
listener "g" {
  address    = ":8007"
  protocols  = ["h1", "h2"]
  early_data = true
}
listener "h" {
  address        = ":8008"
  early_data     = true
  client_ca_file = "bad-listener.hcl"
}
