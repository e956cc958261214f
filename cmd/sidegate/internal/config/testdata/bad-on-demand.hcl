tls {
  on_demand { ask = "http://127.0.0.1:8081/allowed" }
}
