# A consumer that stands in Consul's KV instead of a file:
#
#   consul kv put sidegate/consumers/umbrella @consumer.hcl
#   sidegate key create umbrella -expires 90d
#
# It holds on every node within moments, and a change of it needs no reload. Plans
# and routes stay where they are.
consumer "umbrella" {
  labels = { team = "ops" }
  jwt {
    subject = "umbrella-client"
    issuer  = "https://id.example.com/"
  }
  mtls { san = "spiffe://example.com/umbrella" }
}
