route "api" {
  host    = ["api.example.com"]
  respond { status = 204 }
}

listner "x" {
  address = ":1"
}

service "orders" {
  instances = ["127.0.0.1:1"]
  timeouts {
    conect = "1s"
  }
  completely_different = 1
}
