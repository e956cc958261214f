# Two services at the addresses that compose.yaml gives them, checked by Consul. They
# route themselves by their tags, within what the edge's consul.expose allows.
services {
  name    = "orders"
  address = "10.89.77.11"
  port    = 8080
  tags    = ["sidegate.host=orders.localhost"]
  check {
    http     = "http://10.89.77.11:8080/"
    interval = "2s"
  }
}

services {
  name    = "users"
  address = "10.89.77.12"
  port    = 8080
  tags    = ["sidegate.host=users.localhost"]
  check {
    http     = "http://10.89.77.12:8080/"
    interval = "2s"
  }
}
