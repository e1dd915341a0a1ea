"""Users, the audit trail and one's own account in a real browser, by keyboard, on every screen."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, expect
from viewing import sign_in
from web_door import Door, served

from mrisr_node.people.audit import Action, record
from mrisr_node.people.lockout import enter
from mrisr_node.people.roles import Permission, Role
from mrisr_node.people.tokens import TokenError, create_token
from mrisr_node.people.users import add_user, all_users, disable_user
from mrisr_node.settings import Settings

WORDS = "a few words of hers"


@pytest.fixture
def door(make_settings: Callable[..., Settings]) -> Iterator[Door]:
    with served(make_settings()) as running:
        yield running


@pytest.fixture
def page(chromium: Browser, door: Door) -> Iterator[Page]:
    """A page without JavaScript, as none is needed."""
    context = chromium.new_context(
        viewport={"width": 1280, "height": 800}, java_script_enabled=False
    )
    page = context.new_page()
    page.set_default_timeout(15_000)
    yield page
    context.close()


def test_an_admin_looks_after_users(page, door):
    sign_in(page, door, "/users")
    page.get_by_label("User name").fill("ada")
    page.keyboard.press("Tab")
    expect(page.get_by_role("combobox", name="Role", exact=True)).to_be_focused()
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    said = page.get_by_role("status")
    expect(said).to_contain_text("ada can come in now")
    password = said.locator("code").inner_text()
    row = page.get_by_role("row", name="ada since")
    expect(row).to_contain_text("enabled")
    row.get_by_label("Role of ada", exact=True).select_option("operator")
    row.get_by_role("button", name="Set the role of ada").click()
    expect(page.get_by_role("status")).to_contain_text("ada is operator now")
    row.get_by_role("button", name="Disable ada").click()
    expect(row).to_contain_text("disabled")
    row.get_by_role("button", name="Enable ada").click()
    expect(row).to_contain_text("enabled")
    for _ in range(5):
        enter(door.settings, "ada")
    page.reload()
    page.goto(f"{door.url}/users")
    expect(row).to_contain_text("locked until")
    row.get_by_role("button", name="Unlock ada").click()
    expect(row).to_contain_text("enabled")
    row.get_by_role("button", name="New password for ada").click()
    assert page.get_by_role("status").locator("code").inner_text() != password
    own = page.get_by_role("row", name="admin since")
    own.get_by_role("button", name="Disable admin").click()
    expect(page.get_by_role("alert")).to_contain_text("only administrator")
    page.goto(page.url)
    expect(page).to_have_url(f"{door.url}/users")
    # No password stays in an address.
    assert "?" not in page.url


def test_what_ends_something_asks_first(chromium, door):
    add_user("ada", Role.VIEWER, WORDS)
    create_token("admin", "slicer")
    context = chromium.new_context()
    page = context.new_page()
    page.set_default_timeout(15_000)
    sign_in(page, door, "/users")
    dialog = page.get_by_role("dialog")
    row = page.get_by_role("row", name="ada since")
    row.get_by_role("button", name="Disable ada").click()
    expect(dialog).to_contain_text("Disable ada? Their sessions end")
    page.keyboard.press("Escape")
    expect(dialog).to_be_hidden()
    expect(row).to_contain_text("enabled")
    row.get_by_role("button", name="Disable ada").press("Enter")
    dialog.get_by_role("button", name="Disable").press("Enter")
    expect(row).to_contain_text("disabled")
    row.get_by_role("button", name="New password for ada").click()
    dialog.get_by_role("button", name="New password").click()
    expect(page.get_by_role("status").locator("code")).to_be_visible()
    page.get_by_role("button", name="Disable admin").click()
    expect(dialog).to_contain_text("Disable yourself? You are signed out at once")
    page.goto(f"{door.url}/account")
    page.get_by_role("button", name="Revoke the token slicer").click()
    dialog.get_by_role("button", name="Revoke").click()
    expect(page.get_by_role("status")).to_contain_text("revoked")
    context.close()


def test_a_service_gets_its_token(page, door):
    sign_in(page, door, "/users")
    form = page.locator("form.fields").first
    form.get_by_label("User name").fill("s" * 65)
    page.get_by_role("button", name="Add user").click()
    expect(page.get_by_role("alert")).to_contain_text("up to 64 letters")
    form.get_by_label("User name").fill("slicertool")
    form.get_by_label("Role").select_option("service")
    page.get_by_role("button", name="Add user").click()
    expect(page.get_by_role("status")).to_contain_text("It comes in with a token")
    row = page.get_by_role("row", name="slicertool since")
    row.get_by_text("Tokens").click()
    row.get_by_label("What it is for").fill("room 7")
    row.get_by_label("read").uncheck()
    row.get_by_role("button", name="Make token").click()
    expect(page.get_by_role("alert")).to_contain_text("choose what the token")
    row.get_by_text("Tokens").click()
    row.get_by_label("What it is for").fill("room 7")
    row.get_by_label("store").check()
    row.get_by_role("button", name="Make token").click()
    token = page.get_by_role("status").locator("code").inner_text()
    with door.client(Authorization=f"Bearer {token}") as client:
        me = client.get("/api/auth/me").json()
        assert (me["username"], me["permissions"]) == ("slicertool", ["read", "store"])
        row.get_by_text("Tokens").click()
        expect(row).to_contain_text("room 7: read, store")
        row.get_by_role("button", name="Revoke the token room 7 of slicertool").click()
        expect(page.get_by_role("status")).to_contain_text("is revoked")
        assert client.get("/api/auth/me").status_code == 401
    with pytest.raises(TokenError, match="is service and lacks admin"):
        create_token("slicertool", "x", scopes=[Permission.ADMIN])


def test_one_looks_after_ones_own_account(page, door):
    add_user("ada", Role.VIEWER, WORDS)
    sign_in(page, door, "/account", "ada", WORDS)
    expect(page.get_by_role("heading", name="Account of ada")).to_be_visible()
    page.get_by_label("What it is for").fill("slicer")
    page.get_by_role("button", name="Make token").click()
    token = page.get_by_role("status").locator("code").inner_text()
    with door.client(Authorization=f"Bearer {token}") as client:
        assert client.get("/api/auth/me").json()["permissions"] == ["read"]
        page.get_by_role("button", name="Revoke the token slicer").click()
        expect(page.get_by_role("status")).to_contain_text("revoked")
        assert client.get("/api/auth/me").status_code == 401
    for current, new, again, words in (
        (WORDS, "other words of hers", "other words of his", "differ"),
        ("wrong words", "other words of hers", "other words of hers", "is wrong"),
        (WORDS, "ada is my own name", "ada is my own name", "easily guessed"),
    ):
        page.get_by_label("Current password").fill(current)
        page.get_by_label("New password", exact=True).fill(new)
        page.get_by_label("New password again").fill(again)
        page.get_by_role("button", name="Change password").click()
        expect(page.get_by_role("alert")).to_contain_text(words)
        # Opened again, where the form has led is the same page.
        page.goto(page.url)
        expect(page).to_have_url(f"{door.url}/account")
    page.get_by_label("Current password").fill(WORDS)
    page.get_by_label("New password", exact=True).fill("other words of hers")
    page.get_by_label("New password again").fill("other words of hers")
    page.keyboard.press("Enter")
    expect(page.get_by_role("status")).to_contain_text("Sign in with the new one")
    # Only the password is typed again.
    page.get_by_label("User name").fill("ada")
    page.get_by_label("Password").fill("wrong words")
    page.keyboard.press("Enter")
    expect(page.get_by_role("alert")).to_contain_text("is wrong")
    expect(page.get_by_label("User name")).to_have_value("ada")
    page.get_by_label("Password").fill("other words of hers")
    page.keyboard.press("Enter")
    page.wait_for_url(f"{door.url}/account")
    # What a viewer may not do is not offered.
    assert page.get_by_role("link", name="Users").count() == 0
    assert page.goto(f"{door.url}/users").status == 403


def test_the_audit_trail_is_searched(page, door):
    evil = "<img src=x onerror=alert(1)>"
    for number in range(60):
        record(Action.TRANSFER, username="grace", patient_id=f"P{number}", study_uid="1.2.3")
    record(Action.QUERY, username="grace", patient_id=evil)
    sign_in(page, door, "/audit")
    expect(page.get_by_role("cell", name=evil)).to_be_visible()
    page.get_by_label("User", exact=True).fill("grace")
    page.get_by_role("button", name="Search").click()
    expect(page.get_by_text("61 rows")).to_be_visible()
    page.get_by_role("button", name="Older").click()
    expect(page.get_by_text("51–61 of 61")).to_be_visible()
    page.get_by_label("Patient ID").fill("P7")
    page.keyboard.press("Enter")
    expect(page.get_by_text("1 row", exact=True)).to_be_visible()
    expect(page.get_by_role("cell", name="P7 study 1.2.3")).to_be_visible()
    assert page.url == f"{door.url}/audit"
    page.get_by_label("To").fill("2020-01-01")
    page.get_by_role("button", name="Search").click()
    expect(page.get_by_text("Nothing was found")).to_be_visible()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_they_fit_the_screen(chromium, door, width, scheme, tmp_path):
    context = chromium.new_context(viewport={"width": width, "height": 800}, color_scheme=scheme)
    page = context.new_page()
    refused: list[str] = []
    page.on("console", lambda line: refused.append(line.text) if line.type == "error" else None)
    for name, role in (("ada", Role.VIEWER), ("grace.hopper@hospital.example", Role.OPERATOR)):
        add_user(name, role)
    add_user("pacs-tool", Role.SERVICE)
    disable_user("ada")
    create_token("admin", "3D Slicer in room 7", 90)
    create_token("pacs-tool", "backup of the reading room", 90, [Permission.READ, Permission.STORE])
    record(
        Action.TRANSFER, username="grace.hopper@hospital.example", means="cookie",
        address="10.1.2.3", method="GET", patient_id="MRISR-0042",
        study_uid="1.2.826.0.1.3680043.8.498.1234567890123456789",
        resource="/dicom-web/studies/1.2.826.0.1.3680043.8.498.1234567890123456789/series",
    )  # fmt: skip
    for name in ("sign-in", "users", "audit", "account"):
        if name == "users":
            sign_in(page, door, "/users")
        page.goto(f"{door.url}/{name}")
        if name == "users":
            page.get_by_text("Tokens of pacs-tool").click()
        page.screenshot(path=tmp_path / f"{name}-{width}-{scheme}.png", full_page=True)
        assert page.evaluate("document.documentElement.scrollWidth") <= width, name
        if name == "audit":
            # Without the table's head a bare number says nothing.
            heading = page.get_by_role("cell", name="Outcome").get_by_text("Outcome")
            expect(heading.first).to_be_visible(visible=width < 640)
        found = Axe().run(page)
        assert found.violations_count == 0, found.generate_report()
    context.close()
    assert refused == []
    assert len(all_users()) == 4
