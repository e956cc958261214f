plan "gold" { rate = "500/s" }
plan "gold" { rate = "1/s" }
plan "slow" { rate = "0/s" }
plan "odd" { rate = "10/fortnight" }
plan "monthly" { rate = "10/month" }
plan "burst" { burst = 5 }
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
  basic {
    user   = "x:y"
    bcrypt = "$2y$10$5N9Z1eQ3l4Tn0mFkzVZxaOQ9uS3v4yqQm4pPpN0G3tF7yVnX1l7by"
  }
  basic {
    user   = "weak"
    bcrypt = "5f4dcc3b5aa765d61d8327deb882cf99"
  }
  basic {
    user   = "slow"
    bcrypt = "$2y$20$5N9Z1eQ3l4Tn0mFkzVZxaOQ9uS3v4yqQm4pPpN0G3tF7yVnX1l7by"
  }
  basic {
    user     = "both"
    bcrypt   = "$2y$10$5N9Z1eQ3l4Tn0mFkzVZxaOQ9uS3v4yqQm4pPpN0G3tF7yVnX1l7by"
    argon2id = "$argon2id$v=19$m=65536,t=3,p=4$c2FsdHNhbHQ$aGFzaGhhc2hoYXNoaGFzaA"
  }
  basic {
    user     = "large"
    argon2id = "$argon2id$v=19$m=1048576,t=3,p=4$c2FsdHNhbHQ$aGFzaGhhc2hoYXNoaGFzaA"
  }
  basic {
    user     = "right"
    argon2id = "$argon2id$v=19$m=65536,t=3,p=4$c2FsdHNhbHQ$aGFzaGhhc2hoYXNoaGFzaA"
  }
  basic {
    user     = "right"
    argon2id = "$argon2id$v=19$m=65536,t=3,p=4$c2FsdHNhbHQ$aGFzaGhhc2hoYXNoaGFzaA"
  }
}
consumer "ending" {
  api_key {
    sha256  = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
    expires = "2027-02-30"
  }
  api_key {
    sha256  = "bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb"
    expires = "90d"
  }
  api_key {
    sha256  = "cccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccc"
    expires = ""
  }
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
