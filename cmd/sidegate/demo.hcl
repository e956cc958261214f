# What `make run` serves. Edit it while it runs: it is loaded again.
state_dir = "STATE_DIR"
drain     = "2s"

log {
  level  = "warn"
  format = "text"
}
admin { address = "ADMIN_ADDRESS" }

listener "https" { # TLS with a certificate of the local authority; h3 is UDP on the same port
  address   = "HTTPS_ADDRESS"
  protocols = ["h1", "h2", "h3"]
}
listener "http" {
  address        = "HTTP_ADDRESS"
  tls            = false
  redirect_https = true
}

service "hello" { # two demo backends in the same process
  instances = ["BACKEND_1", "BACKEND_2"]
  health_check { path = "/" }
}

route "hello" {
  hosts   = ["localhost", "127.0.0.1"]
  service = "hello"
}
route "respond" {
  hosts = ["localhost", "127.0.0.1"]
  paths = ["/respond"]
  respond {
    status = 200
    body   = "answered by the gateway itself\n"
  }
}
