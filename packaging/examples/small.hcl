# The smallest useful configuration: a Consul service behind one host name.
# Consul is the agent that CONSUL_HTTP_ADDR names, or the one of a consul block.
consul {}

route "shop" {
  hosts   = ["shop.example.com"]
  service = "shop"
}
