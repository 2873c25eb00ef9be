//! Which addresses we speak to: public ones over HTTPS, and what the operator lists.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use ipnet::IpNet;
use url::{Host, Url};

/// What is wrong with an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AddressFault {
    /// Not an absolute URL.
    #[error("it is not an absolute URL")]
    NotUrl,
    /// Neither HTTPS nor a listed host over HTTP.
    #[error("only https is spoken, unless the host is listed in `outbound.allow_http_hosts`")]
    NotHttps,
    /// User name or password in the URL.
    #[error("it holds a user name or a password")]
    UserInfo,
    /// A fragment in the URL.
    #[error("it holds a fragment")]
    Fragment,
    /// Port 0.
    #[error("its port cannot be reached")]
    Port,
    /// An address that is not public.
    #[error("it is not a public address, and `outbound.allow_networks` does not list it")]
    NotPublic,
    /// The name of a metadata service of a cloud.
    #[error("it names a cloud's metadata service")]
    Metadata,
}

/// Networks of version 4 that are not public (IANA special-purpose registry).
const NOT_PUBLIC_V4: &[([u8; 4], u8)] = &[
    ([0, 0, 0, 0], 8),
    ([10, 0, 0, 0], 8),
    ([100, 64, 0, 0], 10),
    ([127, 0, 0, 0], 8),
    ([169, 254, 0, 0], 16),
    ([172, 16, 0, 0], 12),
    ([192, 0, 0, 0], 24),
    ([192, 0, 2, 0], 24),
    ([192, 88, 99, 0], 24),
    ([192, 168, 0, 0], 16),
    ([198, 18, 0, 0], 15),
    ([198, 51, 100, 0], 24),
    ([203, 0, 113, 0], 24),
    ([224, 0, 0, 0], 3),
];

/// Networks inside 2000::/3 that are not public, or that carry an address of version 4 (6to4, Teredo).
const NOT_PUBLIC_V6: &[([u16; 8], u8)] = &[
    ([0x2001, 0, 0, 0, 0, 0, 0, 0], 23),
    ([0x2001, 0xdb8, 0, 0, 0, 0, 0, 0], 32),
    ([0x2002, 0, 0, 0, 0, 0, 0, 0], 16),
    ([0x3fff, 0, 0, 0, 0, 0, 0, 0], 20),
];

/// Where clouds serve credentials of the machine: a network in the list does not open these, only their exact address.
const METADATA: &[IpAddr] = &[
    IpAddr::V4(Ipv4Addr::new(169, 254, 169, 254)),
    IpAddr::V4(Ipv4Addr::new(169, 254, 170, 2)),
    IpAddr::V4(Ipv4Addr::new(100, 100, 100, 200)),
    IpAddr::V4(Ipv4Addr::new(192, 0, 0, 192)),
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254)),
    IpAddr::V6(Ipv6Addr::new(0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254)),
];

/// Names of the same services.
const METADATA_NAMES: &[&str] = &[
    "metadata",
    "metadata.google.internal",
    "metadata.goog",
    "metadata.azure.internal",
    "metadata.tencentyun.com",
    "instance-data",
    "instance-data.ec2.internal",
];

/// The rule for every address that we speak to.
#[derive(Debug, Clone, Default)]
pub struct Guard {
    allow_networks: Vec<IpNet>,
    allow_http_hosts: Vec<String>,
}

impl Guard {
    /// A guard with the operator's exceptions: networks, and hosts (`name` or `name:port`) that may be spoken to over HTTP.
    pub fn new(allow_networks: Vec<IpNet>, allow_http_hosts: Vec<String>) -> Self {
        let allow_http_hosts = allow_http_hosts.into_iter().map(|host| host.to_ascii_lowercase()).collect();
        Self { allow_networks, allow_http_hosts }
    }

    /// Checks a URL as far as that can be done without resolving its name.
    pub fn check_url(&self, url: &Url) -> Result<(), AddressFault> {
        let host = url.host().ok_or(AddressFault::NotUrl)?;
        match url.scheme() {
            "https" => {}
            "http" if self.allows_http(url) => {}
            _ => return Err(AddressFault::NotHttps),
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(AddressFault::UserInfo);
        }
        if url.fragment().is_some() {
            return Err(AddressFault::Fragment);
        }
        if url.port() == Some(0) {
            return Err(AddressFault::Port);
        }
        match host {
            Host::Ipv4(ip) => self.check_address(IpAddr::V4(ip)),
            Host::Ipv6(ip) => self.check_address(IpAddr::V6(ip)),
            Host::Domain(name) => check_name(name),
        }
    }

    /// Parses and checks a URL.
    pub fn parse(&self, text: &str) -> Result<Url, AddressFault> {
        // The parser drops tabs and line breaks and mends slashes: what people see must be what we speak to.
        if text.chars().any(|c| c.is_control() || c.is_whitespace() || c == '\\') {
            return Err(AddressFault::NotUrl);
        }
        let url = Url::parse(text).map_err(|_| AddressFault::NotUrl)?;
        self.check_url(&url)?;
        Ok(url)
    }

    /// Checks an address: public, or in a listed network.
    pub fn check_address(&self, ip: IpAddr) -> Result<(), AddressFault> {
        if METADATA.contains(&ip) {
            let exact = IpNet::from(ip);
            return if self.allow_networks.contains(&exact) { Ok(()) } else { Err(AddressFault::Metadata) };
        }
        if is_public(ip) || self.allow_networks.iter().any(|net| net.contains(&ip)) {
            Ok(())
        } else {
            Err(AddressFault::NotPublic)
        }
    }

    /// Checks a host's name and keeps those of its addresses that we speak to.
    pub fn keep_allowed(
        &self,
        name: &str,
        addresses: impl IntoIterator<Item = SocketAddr>,
    ) -> Result<Vec<SocketAddr>, AddressFault> {
        check_name(name)?;
        let mut fault = AddressFault::NotPublic;
        let mut kept = Vec::new();
        for address in addresses {
            match self.check_address(address.ip()) {
                Ok(()) => kept.push(address),
                Err(found) => fault = found,
            }
        }
        if kept.is_empty() { Err(fault) } else { Ok(kept) }
    }

    fn allows_http(&self, url: &Url) -> bool {
        let Some(host) = url.host_str() else {
            return false;
        };
        let port = url.port_or_known_default().unwrap_or(80);
        let with_port = format!("{host}:{port}");
        self.allow_http_hosts.iter().any(|allowed| allowed == host || *allowed == with_port)
    }
}

fn check_name(name: &str) -> Result<(), AddressFault> {
    let name = name.trim_end_matches('.').to_ascii_lowercase();
    if METADATA_NAMES.contains(&name.as_str()) {
        return Err(AddressFault::Metadata);
    }
    Ok(())
}

/// Whether an address belongs to the public Internet. Addresses of version 6 that carry one of version 4 (mapped,
/// compatible, 6to4, Teredo, NAT64) never do: what they reach depends on the network that we stand in.
pub fn is_public(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => {
            let bits = u32::from(ip);
            !NOT_PUBLIC_V4.iter().any(|(net, len)| (bits ^ u32::from_be_bytes(*net)) >> (32 - len) == 0)
        }
        IpAddr::V6(ip) => {
            let bits = u128::from(ip);
            let global = bits >> 125 == 1;
            global
                && !NOT_PUBLIC_V6.iter().any(|(net, len)| {
                    let net = u128::from(Ipv6Addr::from(*net));
                    (bits ^ net) >> (128 - len) == 0
                })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Spellings that parse as URLs and must not be spoken to.
    const REFUSED: &[&str] = &[
        // loopback, in every notation that URL parsers know
        "https://127.0.0.1/",
        "https://127.1/",
        "https://127.0.1/",
        "https://0177.0.0.1/",
        "https://0x7f.0.0.1/",
        "https://0x7f000001/",
        "https://2130706433/",
        "https://017700000001/",
        "https://127.0.0.1./",
        "https://127.255.255.254/",
        "https://%31%32%37.0.0.1/",
        "https://１２７.0.0.1/",
        "https://127。0。0。1/",
        "https://[::1]/",
        "https://[0:0:0:0:0:0:0:1]/",
        "https://[::]/",
        "https://0/",
        "https://0.0.0.0/",
        "https://0.1.2.3/",
        // private, shared and link-local
        "https://10.0.0.1/",
        "https://10.255.255.255/",
        "https://012.0.0.1/",
        "https://172.16.0.1/",
        "https://172.31.255.255/",
        "https://192.168.0.1/",
        "https://0xc0a80001/",
        "https://3232235521/",
        "https://100.64.0.1/",
        "https://100.127.255.255/",
        "https://169.254.0.1/",
        "https://169.254.169.254/latest/meta-data/",
        "https://0xa9fea9fe/",
        "https://2852039166/",
        "https://169.254.170.2/",
        "https://100.100.100.200/",
        "https://192.0.0.192/",
        // documentation, benchmarks, relays
        "https://192.0.0.8/",
        "https://192.0.2.1/",
        "https://192.88.99.1/",
        "https://198.18.0.1/",
        "https://198.19.255.255/",
        "https://198.51.100.7/",
        "https://203.0.113.9/",
        // multicast, reserved, broadcast
        "https://224.0.0.1/",
        "https://239.255.255.255/",
        "https://240.0.0.1/",
        "https://255.255.255.255/",
        // version 6
        "https://[fe80::1]/",
        "https://[febf::1]/",
        "https://[fc00::1]/",
        "https://[fdff:ffff::1]/",
        "https://[fd00:ec2::254]/",
        "https://[fec0::1]/",
        "https://[ff02::1]/",
        "https://[ff0e::1]/",
        "https://[::ffff:127.0.0.1]/",
        "https://[::ffff:7f00:1]/",
        "https://[::ffff:8.8.8.8]/",
        "https://[::127.0.0.1]/",
        "https://[::ffff:0:127.0.0.1]/",
        "https://[2002:7f00:1::]/",
        "https://[2002:a00:1::1]/",
        "https://[64:ff9b::7f00:1]/",
        "https://[64:ff9b:1::7f00:1]/",
        "https://[2001::1]/",
        "https://[2001:0:7f00:1::]/",
        "https://[2001:10::1]/",
        "https://[2001:db8::1]/",
        "https://[3fff::1]/",
        "https://[100::1]/",
        "https://[5f00::1]/",
        // names and shapes
        "https://metadata.google.internal/",
        "https://METADATA.google.internal./",
        "https://metadata/",
        "https://instance-data/",
        "http://example.com/",
        "http://localhost/",
        "ftp://example.com/",
        "file:///etc/passwd",
        "gopher://example.com/",
        "data:text/plain,x",
        "https://user@example.com/",
        "https://user:password@example.com/",
        "https://example.com@127.0.0.1/",
        "https://example.com/#fragment",
        "https://example.com:0/",
        "https:\\\\example.com\\",
        "https://exam\tple.com/",
        " https://example.com/",
        "//example.com/",
        "example.com",
        "",
    ];

    const SPOKEN_TO: &[&str] = &[
        "https://example.com/token",
        "https://example.com:8443/token?a=b",
        "https://8.8.8.8/",
        "https://1.1.1.1/",
        "https://172.15.255.255/",
        "https://172.32.0.1/",
        "https://100.63.255.255/",
        "https://100.128.0.1/",
        "https://198.17.255.255/",
        "https://223.255.255.255/",
        "https://[2606:4700:4700::1111]/",
        "https://[2001:4860:4860::8888]/",
        "https://[2a00:1450:4001:80b::200e]/",
    ];

    #[test]
    fn no_spelling_of_a_non_public_address_passes() {
        let guard = Guard::default();
        assert!(REFUSED.len() >= 60);
        for text in REFUSED {
            assert!(guard.parse(text).is_err(), "{text} passed");
        }
    }

    #[test]
    fn public_addresses_pass() {
        let guard = Guard::default();
        for text in SPOKEN_TO {
            assert_eq!(guard.parse(text).map(|_| ()), Ok(()), "{text}");
        }
    }

    #[test]
    fn a_listed_network_opens_its_addresses_and_no_others() {
        let guard = Guard::new(vec!["10.1.0.0/16".parse().unwrap()], Vec::new());
        assert!(guard.parse("https://10.1.2.3/").is_ok());
        assert!(guard.parse("https://10.2.0.1/").is_err());
        assert!(guard.parse("https://[::ffff:10.1.2.3]/").is_err());
        assert_eq!(
            guard.parse("http://10.1.2.3/").err(),
            Some(AddressFault::NotHttps),
            "a listed network does not open plain HTTP"
        );
    }

    #[test]
    fn a_listed_network_does_not_open_the_metadata_service_inside_it() {
        let wide = Guard::new(vec!["169.254.0.0/16".parse().unwrap()], Vec::new());
        assert!(wide.parse("https://169.254.1.1/").is_ok());
        assert_eq!(wide.parse("https://169.254.169.254/").err(), Some(AddressFault::Metadata));
        let exact = Guard::new(vec!["169.254.169.254/32".parse().unwrap()], Vec::new());
        assert!(exact.parse("https://169.254.169.254/").is_ok());
    }

    #[test]
    fn plain_http_is_for_listed_hosts_only() {
        let guard = Guard::new(
            vec!["127.0.0.0/8".parse().unwrap()],
            vec!["idp.internal".to_owned(), "127.0.0.1:8080".to_owned()],
        );
        assert!(guard.parse("http://idp.internal/token").is_ok());
        assert!(guard.parse("http://IDP.internal:81/token").is_ok());
        assert!(guard.parse("http://127.0.0.1:8080/").is_ok());
        assert!(guard.parse("http://127.0.0.1:8081/").is_err());
        assert!(guard.parse("http://x.idp.internal/").is_err());
        assert!(guard.parse("ftp://idp.internal/").is_err());
    }

    #[test]
    fn only_allowed_addresses_of_a_name_are_connected_to() {
        let guard = Guard::default();
        let public: SocketAddr = "8.8.8.8:443".parse().unwrap();
        let private: SocketAddr = "10.0.0.1:443".parse().unwrap();
        assert_eq!(guard.keep_allowed("rebinding.example", [private, public]), Ok(vec![public]));
        assert_eq!(guard.keep_allowed("rebinding.example", [private]), Err(AddressFault::NotPublic));
        assert_eq!(guard.keep_allowed("Metadata.Google.Internal.", [public]), Err(AddressFault::Metadata));
    }
}
