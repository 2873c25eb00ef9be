//! Whose address a request comes from.
//!
//! The socket's peer, unless that is a trusted proxy: then what the chain of trusted proxies says. The headers are read from
//! the right, because only what trusted proxies appended can be believed.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use axum::{
    extract::{ConnectInfo, FromRequestParts},
    http::{HeaderMap, HeaderName, header, request::Parts},
};
use ipnet::IpNet;

use crate::Api;

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// What is counted: an IPv4 address, or the /64 of an IPv6 address, which is what one subscriber has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct AddressKey(IpAddr);

impl AddressKey {
    pub(crate) fn of(address: IpAddr) -> Self {
        Self(match address.to_canonical() {
            IpAddr::V4(address) => IpAddr::V4(address),
            IpAddr::V6(address) => {
                let network = u128::from(address) & !u128::from(u64::MAX);
                IpAddr::V6(Ipv6Addr::from(network))
            }
        })
    }
}

/// The client's address.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ClientAddress(pub(crate) AddressKey);

impl FromRequestParts<Api> for ClientAddress {
    type Rejection = std::convert::Infallible;

    async fn from_request_parts(parts: &mut Parts, api: &Api) -> Result<Self, Self::Rejection> {
        // A router that knows no peers counts all of them as one.
        let peer = parts.extensions.get::<ConnectInfo<SocketAddr>>().map(|ConnectInfo(peer)| peer.ip());
        let peer = peer.unwrap_or(IpAddr::V6(Ipv6Addr::UNSPECIFIED));
        let address = client_of(peer, &parts.headers, &api.settings().trusted_proxies);
        Ok(Self(AddressKey::of(address)))
    }
}

/// The client behind a peer.
fn client_of(peer: IpAddr, headers: &HeaderMap, trusted: &[IpNet]) -> IpAddr {
    let peer = peer.to_canonical();
    if !is_trusted(peer, trusted) {
        return peer;
    }
    let forwarded = chain(headers, &header::FORWARDED, node_of_element);
    let x_forwarded = chain(headers, &X_FORWARDED_FOR, node);
    match (forwarded, x_forwarded) {
        (None, None) => peer,
        (Some(chain), None) | (None, Some(chain)) => walk(peer, &chain, trusted),
        (Some(one), Some(other)) => {
            let (one, other) = (walk(peer, &one, trusted), walk(peer, &other, trusted));
            // A proxy writes one of the two and may pass the other on as the client sent it: if they disagree, neither
            // is believed.
            if one == other { one } else { peer }
        }
    }
}

fn is_trusted(address: IpAddr, trusted: &[IpNet]) -> bool {
    trusted.iter().any(|network| network.contains(&address))
}

/// Goes from the nearest hop outwards as long as hops are trusted and readable.
fn walk(peer: IpAddr, chain: &[Option<IpAddr>], trusted: &[IpNet]) -> IpAddr {
    let mut client = peer;
    for hop in chain.iter().rev() {
        let Some(hop) = hop else { return client };
        client = *hop;
        if !is_trusted(client, trusted) {
            return client;
        }
    }
    client
}

/// Every hop of a header's values, in order; `None` if the header is absent.
fn chain(headers: &HeaderMap, name: &HeaderName, read: fn(&str) -> Option<IpAddr>) -> Option<Vec<Option<IpAddr>>> {
    let mut chain = Vec::new();
    for value in headers.get_all(name) {
        match value.to_str() {
            Ok(text) => chain.extend(text.split(',').map(|part| read(part.trim()))),
            Err(_) => chain.push(None),
        }
    }
    (!chain.is_empty()).then_some(chain)
}

/// The `for` of one element of `Forwarded` (RFC 7239, section 4).
fn node_of_element(element: &str) -> Option<IpAddr> {
    element.split(';').find_map(|pair| {
        let (name, value) = pair.trim().split_once('=')?;
        name.eq_ignore_ascii_case("for").then(|| node(value.trim().trim_matches('"')))?
    })
}

/// An address, alone or with a port, IPv6 in brackets or bare; names such as `unknown` or `_hidden` are no address.
fn node(text: &str) -> Option<IpAddr> {
    let address = match text.strip_prefix('[') {
        Some(rest) => rest.split_once(']')?.0.parse().ok()?,
        None => match text.parse::<IpAddr>() {
            Ok(address) => address,
            Err(_) => text.parse::<SocketAddr>().ok()?.ip(),
        },
    };
    Some(address.to_canonical())
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::HeaderValue;

    fn address(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    fn client(peer: &str, headers: &[(&'static str, &str)]) -> String {
        let trusted: Vec<IpNet> = vec!["10.0.0.0/8".parse().expect("a net"), "fd00::/8".parse().expect("a net")];
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(*name, HeaderValue::from_str(value).expect("a value"));
        }
        client_of(address(peer), &map, &trusted).to_string()
    }

    #[test]
    fn a_peer_that_is_not_trusted_cannot_name_another() {
        assert_eq!(client("203.0.113.9", &[("x-forwarded-for", "198.51.100.1")]), "203.0.113.9");
        assert_eq!(client("203.0.113.9", &[("forwarded", "for=198.51.100.1")]), "203.0.113.9");
    }

    #[test]
    fn a_trusted_proxy_names_the_client() {
        assert_eq!(client("10.1.1.1", &[("x-forwarded-for", "198.51.100.1")]), "198.51.100.1");
        assert_eq!(client("10.1.1.1", &[("forwarded", "for=\"[2001:db8::1]:4711\";proto=https")]), "2001:db8::1");
        assert_eq!(client("::ffff:10.1.1.1", &[("x-forwarded-for", "198.51.100.1:555")]), "198.51.100.1");
        assert_eq!(client("10.1.1.1", &[]), "10.1.1.1");
    }

    #[test]
    fn what_a_client_wrote_before_the_proxies_is_not_believed() {
        assert_eq!(client("10.1.1.1", &[("x-forwarded-for", "192.0.2.66, 198.51.100.1, 10.2.2.2")]), "198.51.100.1");
        assert_eq!(
            client("10.1.1.1", &[("x-forwarded-for", "192.0.2.66"), ("x-forwarded-for", "198.51.100.1")]),
            "198.51.100.1"
        );
        assert_eq!(
            client("10.1.1.1", &[("forwarded", "for=192.0.2.66, for=198.51.100.1;by=10.2.2.2, for=10.2.2.2")]),
            "198.51.100.1"
        );
    }

    #[test]
    fn a_hop_that_cannot_be_read_ends_the_way() {
        assert_eq!(client("10.1.1.1", &[("x-forwarded-for", "198.51.100.1, unknown")]), "10.1.1.1");
        assert_eq!(client("10.1.1.1", &[("forwarded", "for=198.51.100.1, for=_hidden, for=10.2.2.2")]), "10.2.2.2");
        assert_eq!(client("10.1.1.1", &[("forwarded", "proto=https")]), "10.1.1.1");
    }

    #[test]
    fn two_headers_that_disagree_are_both_ignored() {
        let spoofed = [("forwarded", "for=192.0.2.66"), ("x-forwarded-for", "198.51.100.1")];
        assert_eq!(client("10.1.1.1", &spoofed), "10.1.1.1");
        let agreed = [("forwarded", "for=198.51.100.1"), ("x-forwarded-for", "198.51.100.1")];
        assert_eq!(client("10.1.1.1", &agreed), "198.51.100.1");
    }

    #[test]
    fn one_subscriber_of_ipv6_is_one_address() {
        let key = |text| AddressKey::of(address(text));
        assert_eq!(key("2001:db8:1:2::1"), key("2001:db8:1:2:ffff::2"));
        assert_ne!(key("2001:db8:1:2::1"), key("2001:db8:1:3::1"));
        assert_eq!(key("::ffff:192.0.2.1"), key("192.0.2.1"));
        assert_ne!(key("192.0.2.1"), key("192.0.2.2"));
    }
}
