// The page's security policy requires trusted types: no text becomes HTML, and scripts come from this site only.

interface TrustedTypes {
  createPolicy(name: "default", rules: { createScriptURL(url: string): string }): void;
}

const { trustedTypes } = globalThis as { trustedTypes?: TrustedTypes };
trustedTypes?.createPolicy("default", {
  createScriptURL(address) {
    const url = new URL(address, document.baseURI);
    if (url.origin !== location.origin) throw new TypeError(`script from another site: ${url.origin}`);
    return url.href;
  },
});
