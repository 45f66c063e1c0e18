//! Functions of networks.

use std::net::IpAddr;

use ipnet::IpNet;

use super::{Arguments, Computed, Function, MANY};
use crate::tree::Kind;

pub(super) const FUNCTIONS: &[Function] = &[
    ("cidrhost", 2, 2, |a| {
        let (net, number) = (net(a, 0)?, a.integer(1)?);
        let size = host_bits(net);
        let count = 1u128.checked_shl(size).unwrap_or(u128::MAX);
        let offset = match u128::try_from(number) {
            Ok(offset) => offset,
            Err(_) => count.saturating_sub(u128::from(number.unsigned_abs())),
        };
        if offset >= count {
            return Err(format!("{net} has no host {number}"));
        }
        Ok(Kind::text(plus(net.network(), offset).to_string()))
    }),
    ("cidrnetmask", 1, 1, |a| match net(a, 0)? {
        IpNet::V4(net) => Ok(Kind::text(net.netmask().to_string())),
        IpNet::V6(_) => Err("IPv6 has no masks".to_owned()),
    }),
    ("cidrsubnet", 3, 3, |a| {
        let (net, bits, number) = (net(a, 0)?, a.count(1)?, a.count(2)?);
        let whole = subnet(net, bits)?;
        let number = u128::try_from(number).unwrap_or(u128::MAX);
        if bits < 128 && number >= 1u128 << bits {
            return Err(format!("there is no subnet {number} with {bits} more bits"));
        }
        let step = number.checked_shl(host_bits(whole)).unwrap_or(0);
        Ok(Kind::text(format!("{}/{}", plus(net.network(), step), whole.prefix_len())))
    }),
    ("cidrsubnets", 2, MANY, cidrsubnets),
];

fn net(arguments: &Arguments<'_>, index: usize) -> Result<IpNet, String> {
    let text = arguments.text(index)?;
    let net: IpNet = text.parse().map_err(|_| format!("{text:?} is no range such as 10.0.0.0/8"))?;
    Ok(net.trunc())
}

fn host_bits(net: IpNet) -> u32 {
    u32::from(net.max_prefix_len().saturating_sub(net.prefix_len()))
}

fn plus(address: IpAddr, offset: u128) -> IpAddr {
    match address {
        IpAddr::V4(address) => {
            let offset = u32::try_from(offset & u128::from(u32::MAX)).unwrap_or(0);
            IpAddr::V4(u32::from(address).wrapping_add(offset).into())
        }
        IpAddr::V6(address) => IpAddr::V6(u128::from(address).wrapping_add(offset).into()),
    }
}

/// The first of those with so many bits more.
fn subnet(net: IpNet, bits: usize) -> Result<IpNet, String> {
    let prefix = usize::from(net.prefix_len()).saturating_add(bits);
    let prefix = u8::try_from(prefix).ok().filter(|prefix| *prefix <= net.max_prefix_len());
    let prefix = prefix.ok_or_else(|| format!("{net} does not have {bits} more bits"))?;
    IpNet::new(net.network(), prefix).map_err(|e| e.to_string())
}

fn cidrsubnets(arguments: &Arguments<'_>) -> Computed {
    let whole = net(arguments, 0)?;
    let mut at: u128 = 0;
    let mut texts = Vec::new();
    for index in 1..arguments.len() {
        let part = subnet(whole, arguments.count(index)?)?;
        let size = 1u128.checked_shl(host_bits(part)).unwrap_or(u128::MAX);
        // A subnet begins at a multiple of its size.
        let start = at.div_ceil(size).saturating_mul(size);
        let end = start.saturating_add(size);
        if end > 1u128.checked_shl(host_bits(whole)).unwrap_or(u128::MAX) {
            return Err(format!("{whole} has no room for all of them"));
        }
        texts.push(format!("{}/{}", plus(whole.network(), start), part.prefix_len()));
        at = end;
    }
    arguments.texts(texts)
}
