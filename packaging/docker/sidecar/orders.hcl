# The sidecar of orders. The addresses are those that compose.yaml gives the service;
# Consul's agent, in another container, asks at one of them.
sidecar "orders" {
  app    = "127.0.0.1:8080"
  listen = "10.89.77.11:8081"
  tags   = ["sidegate.host=orders.localhost"]

  check {
    http   = "/"
    listen = "10.89.77.11:8082"
  }
  upstream "users" {
    listen = "127.0.0.1:9191"
  }
}
