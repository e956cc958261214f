sidecar "a.b" {
  app  = "10.0.0.1"
  mesh = true
  use  = ["internal"]
}
sidecar "orders" {
  app    = "127.0.0.1:8443"
  listen = ":8443"
  check {
    http    = "healthz"
    timeout = "10s"
  }
  meta = { "sidegate-x" = "1", "a b" = "1" }
  upstream "billing" {
    listen = "127.0.0.1:9191"
  }
  upstream "billing" {
    listen = "127.0.0.1:9192"
  }
  upstream "stock" {
    listen = "127.0.0.1:9191"
  }
  upstream "mail" {
    listen = "unix://run/mail.sock"
  }
  upstream "any" {
    listen = "127.0.0.1:0"
  }
  proxy   = "9190"
  address = "10.0.0.1:80"
}
sidecar "shop" {
  app    = "unix:///run/shop.sock"
  listen = "8444"
  check {
    listen           = ":0"
    deregister_after = "5s"
  }
  weights {
    passing = 0
  }
  upstream "orders" {}
}
sidecar "wide" {
  app   = "10.0.0.1:80"
  proxy = ":9190"
}
sidecar "shop" {
  app = "127.0.0.1:1"
}
