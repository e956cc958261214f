package tls

import "time"

// Settings is the tls block: where certificates come from.
type Settings struct {
	// Where certificates, keys and the ACME account are kept: file is state_dir.
	Storage string `hcl:"storage,attr" default:"file" enum:"file|consul"`
	// Certificates by ACME for every public host that a route names.
	ACME *ACMESettings `hcl:"acme,block"`
	// Certificates from files; they win over ACME for the names they cover.
	Certificates []FileSettings `hcl:"certificate,block"`
	// Certificates for names in no route, when somebody allows them.
	OnDemand *OnDemandSettings `hcl:"on_demand,block"`
	// Oldest TLS version.
	MinVersion string `hcl:"min_version,attr" default:"1.2" enum:"1.2|1.3"`
}

// ACMESettings is an acme block. Who writes it agrees to the terms of the
// authority.
type ACMESettings struct {
	// Where the authority writes to.
	Email string `hcl:"email,attr"`
	// The authority's directory.
	Directory string `hcl:"directory,attr" default:"https://acme-v02.api.letsencrypt.org/directory"`
	// Extra root for a private ACME server, PEM.
	CAFile string `hcl:"ca_file,attr"`
	// Challenges to answer.
	Challenges []string `hcl:"challenges,attr" default:"[\"tls-alpn-01\", \"http-01\"]" enum:"tls-alpn-01|http-01"`
	// How often to look for due renewals.
	CheckEvery time.Duration `hcl:"check_every,attr" default:"10m" min:"1s"`
}

// FileSettings is a certificate block.
type FileSettings struct {
	// Certificate chain, PEM, the leaf first.
	CertFile string `hcl:"cert_file,attr" required:"true"`
	// Private key, PEM.
	KeyFile string `hcl:"key_file,attr" required:"true"`
}

// OnDemandSettings is an on_demand block.
type OnDemandSettings struct {
	// URL that is asked with ?domain=NAME; only 200 allows the name.
	Ask string `hcl:"ask,attr" required:"true"`
}
