//! Network addresses, as `host:port`, of brokers and of processes.
//!
//! They are apart because `deltajoin generate` is given brokers without a configuration.

/// Whether `text` is `host:port`, with a port that something can listen on.
pub(super) fn is_address(text: &str) -> bool {
    let Some((host, port)) = text.rsplit_once(':') else {
        return false;
    };
    // An IPv6 address has colons of its own, and stands in brackets.
    let bracketed = host.starts_with('[') && host.ends_with(']');
    let host_is_one = bracketed || !host.contains(':');
    let plain = !host.is_empty() && !host.contains(|c: char| c.is_whitespace() || c == '/');
    host_is_one && plain && port.parse::<u16>().is_ok_and(|port| port > 0)
}

/// The brokers of a list with commas between them.
pub(super) fn brokers(list: &str) -> impl Iterator<Item = &str> {
    list.split(',').map(str::trim)
}

/// Whether two lists of brokers are of one cluster, as far as they tell: they share a broker.
pub fn share_a_broker(list: &str, other: &str) -> bool {
    brokers(list).any(|broker| brokers(other).any(|known| known == broker))
}

/// Those of a list of brokers that are no addresses.
pub fn wrong_brokers(list: &str) -> Vec<&str> {
    brokers(list).filter(|broker| !is_address(broker)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn brokers_are_addresses_with_commas_between_them() {
        for list in ["k:9092", "k1:9092, 10.0.0.1:9093", "[::1]:9092"] {
            assert!(wrong_brokers(list).is_empty(), "{list}");
        }
        assert_eq!(
            wrong_brokers("nonsense,k:9092,k:0,SSL://k:1,::1:9"),
            ["nonsense", "k:0", "SSL://k:1", "::1:9"]
        );
        assert_eq!(wrong_brokers("k:9092,"), [""]);
    }
}
