# picosnitch-exporter: every target may be called twice, and needs no network once all is there.

.DEFAULT_GOAL := help
.NOTPARALLEL:
SHELL := /bin/sh

# The operating system's own Python: a private one could not see the system's packages.
SYSTEM_PYTHON := /usr/bin/python3
VENV          := .venv
PYTHON        := $(VENV)/bin/python
SERVICE_USER  := picosnitch-exporter

# Optional parts that `make setup` and `make run` install (see pyproject.toml).
EXTRAS      ?= otlp,postgresql,mysql,desktop
TEST_EXTRAS := otlp,otlp-grpc,postgresql,mysql,desktop,dashboards,test
# The linters read the tests too, so they see what the tests import.
LINT_EXTRAS := $(TEST_EXTRAS),lint

FUZZ_SECONDS ?= 60

# Packages of Debian and Ubuntu.
RUN_PACKAGES  := clang llvm libbpf-dev libbpf1 libseccomp2 linux-libc-dev make python3 python3-venv
TEST_SERVERS  := postgresql mariadb-server prometheus prometheus-alertmanager
# 121 MB to fetch, 440 MB on the disk. Ubuntu has no package of it, only a snap.
BROWSER       := $(shell . /etc/os-release 2>/dev/null && [ "$$ID" != debian ] || echo chromium chromium-driver)
TEST_PACKAGES := $(TEST_SERVERS) btrfs-progs dbus e2fsprogs iproute2 gcc libc6-dev openssl procps tmux \
	util-linux bash-completion fish groff-base man-db zsh $(BROWSER)
IMAGE_PACKAGES := buildah debootstrap curl util-linux
VM_PACKAGES := arch-test cpio debian-archive-keyring e2fsprogs gcc gcc-aarch64-linux-gnu libc6-dev \
	libc6-dev-arm64-cross mmdebstrap qemu-system-arm qemu-system-x86 qemu-user-static util-linux xz-utils
LINT_PACKAGES := clang-format shellcheck
# What `make bench` compares with; tcptop needs kprobes, and says so where there are none.
BENCH_PACKAGES := bpfcc-tools bpftrace gcc libc6-dev nethogs postgresql mariadb-server \
	prometheus-node-exporter prometheus-process-exporter

# Where `make install` puts things; the unit names the same places.
PREFIX        ?= /usr/local

OBJECT      := exporter/picosnitch_exporter/sensor/picosnitch.bpf.o
EBPF_INPUTS := ebpf/Makefile $(wildcard ebpf/*.c ebpf/*.h)
PIP         := PIP_ROOT_USER_ACTION=ignore $(PYTHON) -m pip --disable-pip-version-check
C_SOURCES    = $(shell find ebpf bench tests -name '*.[ch]' 2>/dev/null | sort)
# Files whose first line calls a shell.
SHELL_SCRIPTS = $(shell find . -path ./.git -prune -o -path ./$(VENV) -prune -o -type f -size -200k \
	-exec awk 'FNR == 1 { if (/^#!.*[\/ ](ba|da)?sh( |$$)/) print FILENAME; nextfile }' {} + | sort)

# Installs those of $packages that are missing. Services that the packages bring are neither started
# (policy-rc.d, put back afterwards) nor, for $servers, enabled for the next boot: the tests start
# their own, in temporary folders.
define INSTALL_PACKAGES
missing=
if ! command -v dpkg-query >/dev/null; then
	echo "not Debian or Ubuntu: make sure that you have what these packages hold: $$packages" >&2
	exit 0
fi
for package in $$packages; do
	dpkg-query -W -f='$${db:Status-Status}\n' "$$package" 2>/dev/null | grep -qx installed ||
		missing="$$missing $$package"
done
[ -n "$$missing" ] || exit 0

root=
if [ "$$(id -u)" -ne 0 ]; then
	root=sudo
	if ! command -v sudo >/dev/null; then
		echo "packages are missing, run this as root: apt-get install$$missing" >&2
		exit 1
	fi
fi
echo "installing$$missing"
apt() {
	$$root env DEBIAN_FRONTEND=noninteractive apt-get -q -y --no-install-recommends "$$@" </dev/null
}

policy=/usr/sbin/policy-rc.d
put_back() {
	if [ -e "$$policy.picosnitch" ]; then
		$$root mv -f "$$policy.picosnitch" "$$policy"
	else
		$$root rm -f "$$policy"
	fi
}
# One that is left over from a run that was killed is the original.
if [ -e "$$policy" ] && [ ! -e "$$policy.picosnitch" ]; then
	$$root mv "$$policy" "$$policy.picosnitch"
fi
trap put_back EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
printf '#!/bin/sh\nexit 101\n' | $$root tee "$$policy" >/dev/null
$$root chmod 755 "$$policy"

# The lists may be empty, or older than what the mirrors still have.
apt -s install $$missing >/dev/null 2>&1 || apt update
apt install $$missing || { apt update && apt install $$missing; }

if [ -d /run/systemd/system ]; then
	for server in $$servers; do
		case "$$missing " in
		*" $$server "*) $$root systemctl disable --quiet "$${server%-server}.service" || true ;;
		esac
	done
fi
endef
export INSTALL_PACKAGES

# $(call install_packages,PACKAGES)
install_packages = @packages='$(1)' servers='$(TEST_SERVERS) $(filter prometheus-%,$(BENCH_PACKAGES))' sh -ec "$$INSTALL_PACKAGES"

# $(call install_project,EXTRAS): what is satisfied is not looked up again. pip compiles all packages but
# this one, which it leaves where it is: its first start would, and keep the memory that this takes.
install_project = @echo "installing the Python packages into $(VENV)"; \
	$(PIP) install -q 'hatchling>=1.27' && \
	$(PIP) install -q --no-build-isolation -e '.[$(1)]' && \
	$(PYTHON) -m compileall -q exporter && touch $@

# $(call not_built_yet,FILE): one line, and an error.
not_built_yet = echo "make $@: not built yet ($(1) does not exist)" >&2; exit 1

.PHONY: help
help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

.PHONY: setup
setup: packages-run $(OBJECT) $(VENV)/.installed-run service-user ## install what running needs, build the BPF object

.PHONY: run
run: setup ## run the exporter in the foreground (as root); options in ARGS='...'
	@exec $(VENV)/bin/picosnitch-exporter run $(ARGS)

.PHONY: test
test: packages-run packages-test $(OBJECT) $(VENV)/.installed-test $(VENV)/.fetched-helm service-user ## install what the tests need, run the whole suite (as root)
	@exec tests/run

.PHONY: lint
lint: packages-run packages-lint $(OBJECT) $(VENV)/.installed-lint ## run every linter
	$(VENV)/bin/ruff check
	$(VENV)/bin/ruff format --check
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports
	clang-format --dry-run -Werror $(C_SOURCES)
	shellcheck $(SHELL_SCRIPTS)
	@$(PYTHON) -m deploy.audit

.PHONY: bench
bench: packages-run packages-bench $(OBJECT) $(VENV)/.installed-test service-user ## measure what it costs, write bench/RESULTS.md and docs/growth (as root)
	@exec bench/run $(ARGS)

.PHONY: fuzz
fuzz: packages-run $(OBJECT) $(VENV)/.installed-fuzz ## look for bytes that a decoder can't take, FUZZ_SECONDS=60 for each
	$(PYTHON) -m tests.fuzz --seconds $(FUZZ_SECONDS) $(ARGS)

.PHONY: image
image: ## build the container image
	@[ -x deploy/image ] || { $(call not_built_yet,deploy/image); }
	@exec deploy/image $(ARGS)

.PHONY: test-image
test-image: ## build the container image twice, run it in a chroot (as root)
	$(call install_packages,$(IMAGE_PACKAGES))
	@exec tests/image/run

.PHONY: install
install: packages-run $(OBJECT) service-user ## install into PREFIX, with the systemd unit (as root)
	@exec deploy/install '$(PREFIX)' '$(EXTRAS)'

.PHONY: deb
deb: packages-run $(OBJECT) ## build a Debian package of it in build/, for this Debian or Ubuntu
	@exec deploy/deb build

.PHONY: uninstall
uninstall: ## remove what `make install` has put there; the log only with PURGE=1
	@PURGE='$(PURGE)' exec deploy/uninstall '$(PREFIX)'

.PHONY: manifests
manifests: $(VENV)/.installed-test ## write the Kubernetes objects and the Helm chart anew
	$(PYTHON) -m deploy.manifests

.PHONY: lock
lock: venv ## write what the container image installs anew, from pyproject.toml, and its SBOM
	@deploy/lock $(PYTHON) && exec deploy/sbom $(PYTHON)

.PHONY: test-vm
test-vm: packages-run packages-vm venv $(OBJECT) ## run the kernel tests on other kernels, under QEMU (as root)
	@exec tests/vm/run $(ARGS)

.PHONY: soak
soak: packages-run packages-test $(OBJECT) $(VENV)/.installed-test service-user ## stop, crash and start it 100 times under traffic, compare all sums (as root); PICOSNITCH_SOAK_SECONDS=3600: does its memory stay flat?
	@PICOSNITCH_SOAK_ROUNDS=$${PICOSNITCH_SOAK_ROUNDS:-100} exec tests/run tests/kernel/test_restart.py \
		tests/kernel/test_flat.py -k 'at_random or flat' -o log_cli=true -o log_cli_level=INFO

.PHONY: clean
clean: ## remove all that was built here, the virtual environment too
	rm -rf $(VENV) $(OBJECT) $(OBJECT).tmp build dist htmlcov .coverage .coverage.* .hypothesis \
		.import_linter_cache .mypy_cache .pytest_cache .ruff_cache
	find exporter ebpf tests -name __pycache__ -type d -prune -exec rm -rf {} +

.PHONY: packages-run packages-test packages-vm packages-lint packages-bench
packages-run:
	$(call install_packages,$(RUN_PACKAGES))
packages-test:
	$(call install_packages,$(TEST_PACKAGES))
packages-vm:
	$(call install_packages,$(VM_PACKAGES))
packages-lint:
	$(call install_packages,$(LINT_PACKAGES))
packages-bench:
	$(call install_packages,$(BENCH_PACKAGES))

# The unprivileged process of the exporter runs as this user.
.PHONY: service-user
service-user:
	@if [ "$$(id -u)" -eq 0 ] && ! getent passwd $(SERVICE_USER) >/dev/null; then \
		echo "creating the system user $(SERVICE_USER)"; \
		useradd --system --user-group --no-create-home --home-dir /nonexistent \
			--shell /usr/sbin/nologin $(SERVICE_USER); \
	fi

# The object first: editing the C source rebuilds it, also where nothing is to be installed.
$(OBJECT): $(EBPF_INPUTS) | packages-run
	@$(MAKE) --no-print-directory -C ebpf

# Made anew where its Python is gone or the checkout has moved: its scripts name their own place.
.PHONY: venv
venv: | packages-run
	@if ! $(PYTHON) -c '' 2>/dev/null || [ "$$(cat $(VENV)/.checkout 2>/dev/null)" != '$(CURDIR)' ]; then \
		$(SYSTEM_PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
			echo "$(SYSTEM_PYTHON) is older than Python 3.11: use Debian 12, Ubuntu 24.04 or later" >&2; exit 1; }; \
		$(SYSTEM_PYTHON) -m venv --clear $(VENV) && printf '%s\n' '$(CURDIR)' >$(VENV)/.checkout; \
	fi

$(VENV)/.installed-run: pyproject.toml ebpf/build_hook.py | venv $(OBJECT)
	$(call install_project,$(EXTRAS))
$(VENV)/.installed-test: pyproject.toml ebpf/build_hook.py | venv $(OBJECT)
	$(call install_project,$(TEST_EXTRAS))
$(VENV)/.fetched-helm: tests/fetch-helm tests/helm.lock | $(VENV)/.installed-test
	@echo "fetching helm and kubectl into $(VENV)"; tests/fetch-helm "$(CURDIR)/$(PYTHON)" && touch $@
$(VENV)/.installed-lint: pyproject.toml ebpf/build_hook.py | venv $(OBJECT)
	$(call install_project,$(LINT_EXTRAS))
$(VENV)/.installed-fuzz: pyproject.toml ebpf/build_hook.py | venv $(OBJECT)
	$(call install_project,fuzz)
