"""A person at JupyterLab, played by the Chromium that is installed here: opens notebooks, saves, runs all cells."""

import ast
import json
import os
import re
import shutil
import time
from contextlib import contextmanager
from pathlib import Path

import requests
from playwright.sync_api import Page, sync_playwright

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
PATIENCE_S = 900.0  # for a notebook to run, on a busy machine
LOST_S = 30.0  # an idle kernel that ran no cell for so long never got them


@contextmanager
def window():
    """A window of the browser, closed after the block."""
    with sync_playwright() as playwright:
        arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=arguments)
        try:
            yield browser.new_page(viewport={"width": 1300, "height": 1000})
        finally:
            browser.close()


def with_parameters(path: Path, values: dict) -> None:
    """Edit a notebook as a person would: other values in its parameter cell."""
    notebook = json.loads(path.read_text())
    cell = next(cell for cell in notebook["cells"] if "parameters" in cell["metadata"].get("tags", []))
    text = "".join(cell["source"])
    for name, value in values.items():
        given = [node for node in ast.parse(text).body if isinstance(node, ast.Assign) and node.targets[0].id == name]
        assert len(given) == 1, f"no parameter {name} in {path.name}"
        lines, first, last = text.split("\n"), given[0].lineno, given[0].end_lineno
        text = "\n".join([*lines[: first - 1], f"{name} = {value!r}", *lines[last:]])
    cell["source"] = text.splitlines(keepends=True)
    path.write_text(json.dumps(notebook))


class Lab:
    """JupyterLab at `address` in a browser's page; `tree` is the folder that it serves."""

    def __init__(self, page: Page, address: str, token: str, tree: Path):
        self.page, self.address, self.token, self.tree = page, address, token, tree
        self.missing: list[str] = []  # addresses that could not be loaded
        page.on("response", lambda answer: answer.status >= 400 and self._note(answer.url))
        page.set_default_timeout(1000 * PATIENCE_S)

    def _note(self, address: str) -> None:
        if not re.search(r"/api/(kernels|sessions)\b", address):  # 500 while a kernel comes or goes: Lab asks again
            self.missing.append(address)

    def open(self, path: str) -> None:
        self.page.goto(f"{self.address}/lab/tree/{path}?token={self.token}&reset")
        self.page.wait_for_selector(".jp-Notebook .jp-Cell")
        self.wait_for_idle()

    def wait_for_idle(self) -> None:
        self.page.wait_for_selector('.jp-Notebook-ExecutionIndicator[data-status="idle"]', state="attached")

    def save(self) -> None:
        """Ctrl+S, and wait until it is on disk."""
        with self.page.expect_response(lambda a: a.request.method == "PUT" and "/api/contents/" in a.url):
            self.page.locator(".jp-Notebook").first.focus()
            self.page.keyboard.press("Control+s")

    def wait_until_connected(self) -> None:
        """Until the kernel answers the browser: Lab shows it as idle before, and loses what is sent to it then."""
        until = time.monotonic() + PATIENCE_S
        while not any(kernel["connections"] and kernel["execution_state"] == "idle" for kernel in self.kernels()):
            assert time.monotonic() < until, f"no kernel is connected: {self.kernels()}"
            self.page.wait_for_timeout(100)
        self.wait_for_idle()

    def run_all(self, path: str) -> list[dict]:
        """Run All Cells from the menu; the code cells as they are saved when the last one has run, or one failed."""
        self.wait_until_connected()
        until, clicked = time.monotonic() + PATIENCE_S, -LOST_S
        cells = self.code_cells(path)
        while time.monotonic() < until:
            if not any(cell["execution_count"] for cell in cells) and time.monotonic() > clicked + LOST_S:
                self.page.locator(".lm-MenuBar-itemLabel", has_text="Run").first.click()
                self.page.get_by_text("Run All Cells", exact=True).click()
                clicked = time.monotonic()
            self.page.wait_for_timeout(500)
            self.wait_for_idle()
            self.save()
            cells = self.code_cells(path)
            failed = any(output["output_type"] == "error" for cell in cells for output in cell["outputs"])
            if failed or all(cell["execution_count"] for cell in cells):
                return cells
        ran = [cell["execution_count"] is not None for cell in cells]
        shown = self.page.locator(".jp-Dialog-content, .jp-Notebook-ExecutionIndicator").all_inner_texts()
        raise TimeoutError(
            f"{path} ran longer than {PATIENCE_S:g} s; which cells ran: {ran}; on the screen: {shown}; {self.kernels()}"
        )

    def code_cells(self, path: str) -> list[dict]:
        """The code cells of a notebook as they are on disk."""
        for _ in range(100):
            if (text := (self.tree / path).read_text()).endswith("}\n"):  # else not written to its end yet
                break
            time.sleep(0.05)
        return [cell for cell in json.loads(text)["cells"] if cell["cell_type"] == "code"]

    def kernels(self) -> list[dict]:
        """The kernels that the server has started; none while it cannot tell, since one comes or goes."""
        ours = {"Authorization": f"token {self.token}"}
        answer = requests.get(f"{self.address}/api/kernels", headers=ours, timeout=60)
        return answer.json() if answer.ok else []

    def end_kernels(self) -> None:
        ours = {"Authorization": f"token {self.token}"}
        for kernel in self.kernels():
            requests.delete(f"{self.address}/api/kernels/{kernel['id']}", headers=ours, timeout=60)
