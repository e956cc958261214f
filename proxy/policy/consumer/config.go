package consumer

// Config is a consumer block: a client that the gateway knows.
type Config struct {
	Name string `hcl:"name,label"`
	// The plan that says how much it may use.
	Plan string `hcl:"plan,attr"`
	// In the place of its plan's priority, and of the routes'.
	Priority string `hcl:"priority,attr" enum:"low|normal|high"`
	// What else is known of it, for conditions and header fields: {consumer.labels.NAME}.
	Labels map[string]string `hcl:"labels,attr"`
	// Policies that hold for its requests, on all routes that say who is calling, beside its plan's: of block, authorize, rate_limit, quota and request.
	Use []string `hcl:"use,attr"`
	// Its API keys; several while one is being replaced.
	Keys []*KeyConfig `hcl:"api_key,block"`
	// Tokens that are its: auth "jwt", "introspect" and "oidc".
	JWT []*JWTConfig `hcl:"jwt,block"`
	// Its names and passwords: auth "basic".
	Basic []*BasicConfig `hcl:"basic,block"`
	// Its certificates: auth "mtls".
	MTLS []*MTLSConfig `hcl:"mtls,block"`
}

// MTLSConfig is an mtls block: a consumer by a name in its certificate.
type MTLSConfig struct {
	// One of the certificate's alternative names: a URI such as spiffe://example.com/acme, a DNS name or an e-mail address.
	SAN string `hcl:"san,attr" required:"true"`
}

// BasicConfig is a basic block: a consumer by name and password.
type BasicConfig struct {
	// The name.
	User string `hcl:"user,attr" required:"true"`
	// The password's bcrypt hash: htpasswd -nBC 10 NAME prints it.
	Bcrypt string `hcl:"bcrypt,attr" hidden:"true"`
	// The password's argon2id hash, in the place of bcrypt: $argon2id$v=19$m=65536,t=3,p=4$SALT$HASH.
	Argon2id string `hcl:"argon2id,attr" hidden:"true"`
}

// JWTConfig is a jwt block: a consumer by what its tokens say.
type JWTConfig struct {
	// What sub says.
	Subject string `hcl:"subject,attr" required:"true"`
	// Whose tokens. May be left out as long as all auth blocks of the files name one issuer: another one may give the same subject to somebody else.
	Issuer string `hcl:"issuer,attr"`
}

// KeyConfig is an api_key block: a key by its hash, so that whoever reads the
// configuration can't use it.
type KeyConfig struct {
	// SHA-256 of the key in hexadecimal: printf %s "$KEY" | sha256sum. Keys are random, of 256 bits.
	SHA256 string `hcl:"sha256,attr" required:"true"`
	// When it stops working: a day, from its beginning on (UTC), such as "2027-06-30", or a time such as "2027-06-30T18:00:00Z". Never unless given.
	Expires string `hcl:"expires,attr"`
}

// PlanConfig is a plan block: what the consumers that have it may use.
type PlanConfig struct {
	Name string `hcl:"name,label"`
	// In the place of the rate of each rate_limit with by = "consumer": "500/s", by s, m, h or day.
	Rate string `hcl:"rate,attr"`
	// How many may come at once; unless given as many as come in one second.
	Burst int `hcl:"burst,attr" min:"1" max:"1000000000"`
	// In the place of the routes' priority.
	Priority string `hcl:"priority,attr" enum:"low|normal|high"`
	// Policies that hold for the requests of all that have it, on all routes that say who is calling: of block, authorize, rate_limit, quota and request.
	Use []string `hcl:"use,attr"`
	// In the place of the limit of each quota with by = "consumer", counted on all routes that have one together: "1000000/month", by h, day or month.
	Quota string `hcl:"quota,attr"`
}
