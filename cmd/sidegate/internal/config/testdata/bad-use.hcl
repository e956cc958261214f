policy "pages" {
  cors { origins = ["https://a.test"] }
}
policy "office" {
  block { allow = ["192.0.2.0/24"] }
}
plan "gold" { use = ["ofice"] }
plan "free" { use = ["pages"] }
consumer "acme" {
  use = ["office", "office"]
}
consumer "umbrella" {
  plan = "free"
  use  = "office"
}
