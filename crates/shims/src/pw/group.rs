//! Groups.

use super::ask::Ask;
use super::names::check_name;
use super::password::{self, Password};
use super::{DATA, Files, NO_USER, UNAVAILABLE, USAGE, field, members, put};
use crate::{Failure, Outcome};

/// Numbers of ordinary users and groups, as FreeBSD gives them out.
pub const IDS: std::ops::RangeInclusive<u32> = 1001..=32000;

fn no_group(subject: &str) -> Failure {
    Failure::new(DATA, format!("unknown group `{subject}'"))
}

/// The name of the group that is meant: by name, or by number with `-g` or alone.
fn meant(ask: &Ask, files: &Files) -> Result<String, Failure> {
    let subject = ask.subject().or_else(|| ask.value('g'));
    let subject = subject.ok_or_else(|| Failure::new(USAGE, "group name or id required"))?;
    find(files, subject).ok_or_else(|| no_group(subject))
}

/// A group by name or number: its name.
pub fn find(files: &Files, text: &str) -> Option<String> {
    let number = || files.group.find(2, text).filter(|_| text.parse::<u32>().is_ok());
    files.group.find(0, text).or_else(number).map(|entry| field(entry, 0).to_owned())
}

/// The number of a group.
pub fn number(files: &Files, name: &str) -> Option<String> {
    files.group.find(0, name).map(|entry| field(entry, 2).to_owned())
}

/// A number that no group has: `wanted` if it is free, else the next one.
pub fn free_number(files: &Files, wanted: Option<u32>) -> Result<u32, Failure> {
    let used = files.group.numbers(2);
    let free = |id: &u32| !used.contains(id);
    let next = || used.iter().filter(|id| IDS.contains(id)).max().map_or(*IDS.start(), |id| id + 1);
    let found = wanted.filter(free).or_else(|| Some(next()).filter(|id| IDS.contains(id)));
    found.or_else(|| IDS.clone().find(free)).ok_or_else(|| Failure::new(UNAVAILABLE, "no group id is free"))
}

/// Adds a group to the files.
pub fn insert(files: &mut Files, name: &str, number: u32, members: &[String]) {
    let list = members.join(",");
    files.group.add(vec![name.to_owned(), "x".to_owned(), number.to_string(), list.clone()]);
    if let Some(gshadow) = &mut files.gshadow {
        gshadow.add(vec![name.to_owned(), "!".to_owned(), String::new(), list]);
    }
}

/// Sets the members of a group.
pub fn set_members(files: &mut Files, name: &str, members: &[String]) {
    for table in [Some(&mut files.group), files.gshadow.as_mut()].into_iter().flatten() {
        if let Some(entry) = table.find_mut(0, name) {
            put(entry, 3, members.join(","));
        }
    }
}

/// Names of users, each checked to exist.
fn users(files: &Files, list: &[&str]) -> Result<Vec<String>, Failure> {
    let mut names = Vec::new();
    for text in list {
        let entry = files.passwd.find(0, text).or_else(|| files.passwd.find(2, text));
        let entry = entry.ok_or_else(|| Failure::new(NO_USER, format!("user `{text}' does not exist")))?;
        let name = field(entry, 0).to_owned();
        if !names.contains(&name) {
            names.push(name);
        }
    }
    Ok(names)
}

/// `-h -` and `-w no` are how it is anyway; anything else a group's password could be is refused.
fn check_password(ask: &Ask) -> Result<(), Failure> {
    match password::asked(ask, "")? {
        None | Some(Password::Hashed(_)) if !ask.has('H') => Ok(()),
        _ => Err(Failure::new(UNAVAILABLE, "groups have no passwords here: leave -h and -H out")),
    }
}

/// `pw groupadd`
pub fn add(ask: &Ask) -> Outcome {
    let name = ask.subject().ok_or_else(|| Failure::new(USAGE, "group name required"))?;
    check_name("group", name)?;
    check_password(ask)?;
    let mut files = Files::lock(&ask.etc)?;
    if files.group.find(0, name).is_some() {
        return Err(Failure::new(DATA, format!("group name `{name}' already exists")));
    }
    let wanted = ask.number('g')?;
    if let Some(id) = wanted.filter(|id| files.group.numbers(2).contains(id) && !ask.has('o')) {
        return Err(Failure::new(DATA, format!("gid `{id}' has already been allocated")));
    }
    let id = match wanted {
        Some(id) => id,
        None => free_number(&files, None)?,
    };
    let members = users(&files, &ask.list('M').unwrap_or_default())?;
    insert(&mut files, name, id, &members);
    if ask.has('N') {
        println!("{name}:*:{id}:{}", members.join(","));
        return Ok(0);
    }
    files.save()?;
    Ok(0)
}

/// `pw groupmod`
pub fn modify(ask: &Ask) -> Outcome {
    check_password(ask)?;
    let mut files = Files::lock(&ask.etc)?;
    let name = meant(ask, &files)?;
    let mut now = files.group.find(0, &name).map(|entry| members(entry)).unwrap_or_default();
    if let Some(list) = ask.list('M') {
        now = users(&files, &list)?;
    }
    for user in users(&files, &ask.list('m').unwrap_or_default())? {
        if !now.contains(&user) {
            now.push(user);
        }
    }
    let gone = ask.list('d').unwrap_or_default();
    now.retain(|user| !gone.contains(&user.as_str()));
    set_members(&mut files, &name, &now);
    if let Some(id) = ask.number('g')?.filter(|_| ask.subject().is_some()) {
        let old = number(&files, &name).unwrap_or_default();
        if old != id.to_string() && files.group.numbers(2).contains(&id) {
            return Err(Failure::new(DATA, format!("gid `{id}' has already been allocated")));
        }
        if let Some(entry) = files.group.find_mut(0, &name) {
            put(entry, 2, id.to_string());
        }
    }
    if let Some(new) = ask.value('l') {
        check_name("group", new)?;
        if files.group.find(0, new).is_some() {
            return Err(Failure::new(DATA, format!("group name `{new}' already exists")));
        }
        for table in [Some(&mut files.group), files.gshadow.as_mut()].into_iter().flatten() {
            if let Some(entry) = table.find_mut(0, &name) {
                put(entry, 0, new);
            }
        }
    }
    if !ask.has('N') {
        files.save()?;
    }
    Ok(0)
}

/// `pw groupdel`
pub fn delete(ask: &Ask) -> Outcome {
    let mut files = Files::lock(&ask.etc)?;
    let name = meant(ask, &files)?;
    remove(&mut files, &name);
    files.save()?;
    Ok(0)
}

/// Removes a group from the files.
pub fn remove(files: &mut Files, name: &str) {
    files.group.remove(name);
    if let Some(gshadow) = &mut files.gshadow {
        gshadow.remove(name);
    }
}

/// `pw groupshow`
pub fn show(ask: &Ask) -> Outcome {
    let files = Files::look(&ask.etc)?;
    let all = ask.has('a') || ask.subject() == Some("-a");
    let name = if all { String::new() } else { meant(ask, &files)? };
    for entry in files.group.entries().filter(|entry| all || field(entry, 0) == name) {
        println!("{}:*:{}:{}", field(entry, 0), field(entry, 2), field(entry, 3));
    }
    Ok(0)
}

/// `pw groupnext`
pub fn next(ask: &Ask) -> Outcome {
    println!("{}", free_number(&Files::look(&ask.etc)?, None)?);
    Ok(0)
}
