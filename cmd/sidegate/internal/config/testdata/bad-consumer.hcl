plan "gold" { rate = "500/s" }
plan "gold" { rate = "1/s" }
plan "slow" { rate = "0/s" }
plan "odd" { rate = "10/fortnight" }
plan "monthly" { rate = "10/month" }
plan "burst" { burst = 5 }
plan "later" { quota = "10/month" }
consumer "acme" {
  plan = "golf"
  api_key { sha256 = "9F86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08" }
  api_key { sha256 = "abc" }
  api_key {}
}
consumer "umbrella" {
  plan   = ""
  labels = { team = 5 }
  api_key { sha256 = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08" }
  api_key { sha256 = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855" }
  basic { user = "x" }
}
consumer "acme" {}
consumer "typo" { plan = "golf" }
consumer "none" { plan = "" }
route "r" {
  respond { body = "ok" }
  auth "api_key" { header = "X_Key" }
  auth "api_key" {
    header = "Host"
    query  = "a b"
  }
  auth "api_kee" {}
  auth "jwt" {}
  auth {}
  request {
    add = { "X-Consumer" = "{consumer.name}" }
  }
}
