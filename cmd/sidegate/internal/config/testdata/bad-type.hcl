drain           = 30
state_dir       = 7
trusted_proxies = ["10.0.0.0/33", "10.0.0.1/8", "::1", "a"]
listener "a" {
  address   = ":8080"
  tls       = "no"
  protocols = "h1"
  limits {
    headers        = "32K"
    uri            = 8192
    fields         = 1.5
    connections    = 0
    idle_timeout   = "1"
    stall_timeout  = "1ms"
    header_timeout = "-1s"
    streams        = 99999
  }
}
access_log {
  sample = 2
}
route "r" {
  hosts   = "api.example.com"
  headers = ["a"]
  split   = { "a" = "b", "b" = -1 }
  methods = ["GET", 1, null]
  redirect {
    to     = "/x"
    status = 300
  }
}
