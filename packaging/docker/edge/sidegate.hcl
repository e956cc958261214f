# The edge: routes come from what services say of themselves in Consul, whose agent
# CONSUL_HTTP_ADDR names. localhost and names below it get certificates from the
# edge's own authority; public names by ACME.
consul {
  expose {
    hosts = ["*.localhost"]
  }
}

listener "https" {
  address   = ":443"
  protocols = ["h1", "h2", "h3"]
}

listener "http" {
  address        = ":80"
  tls            = false
  redirect_https = true
}
