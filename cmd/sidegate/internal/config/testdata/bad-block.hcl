policy "p" {
  block {
    deny      = ["10.0.0.1/8", "example.com"]
    deny_file = "bad-block.txt"
  }
}
route "r" {
  respond { body = "ok" }
  block {}
  block { deny_file = "nowhere.txt" }
  block { deny_file = "bad-block.txt" }
  block {
    user_agents = ["~(", "ok"]
    methods     = ["get", "a b"]
    paths       = ["x", "/a*", "/ok"]
  }
}
route "geo" {
  hosts = ["geo.test"]
  respond { body = "ok" }
  block { countries = ["DE"] }
  block {
    asns     = [64500]
    asn_file = "bad-block.txt"
  }
}
